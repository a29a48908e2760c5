/* Prints the largest error of the functions in deploy/wasm/include/math.h against the C library in
 * double precision, in units in the last place, over every STEP-th float. */
#include <math.h>
#include <stdio.h>

double exp(double), expm1(double), tanh(double);

static double error(float got, double wanted)
{
    union { float number; uint32_t bits; } here, next;
    here.number = (float)wanted;
    if (got != got || wanted != wanted)
        return got != got && wanted != wanted ? 0.0 : 1e9;
    if ((here.bits & 0x7F800000u) == 0x7F800000u)
        return got == here.number ? 0.0 : 1e9;
    next.bits = (here.bits & 0x7FFFFFFFu) + 1u;
    const double size = here.number < 0 ? -(double)here.number : (double)here.number;
    const double unit = (next.bits & 0x7F800000u) == 0x7F800000u ? 0x1p104 : next.number - size;
    const double apart = (double)got - wanted;
    return (apart < 0 ? -apart : apart) / unit;
}

int main(void)
{
    double worst[3] = {0.0, 0.0, 0.0};
    for (uint64_t bits = 0; bits < 0x100000000u; bits += STEP) {
        union { uint32_t bits; float number; } x;
        x.bits = (uint32_t)bits;
        const double v = x.number;
        const double errors[3] = {
            error(expf(x.number), exp(v)),
            error(expm1f(x.number), expm1(v)),
            error(tanhf(x.number), tanh(v)),
        };
        for (int i = 0; i < 3; i++)
            worst[i] = errors[i] > worst[i] ? errors[i] : worst[i];
    }
    printf("%.4f %.4f %.4f\n", worst[0], worst[1], worst[2]);
    return 0;
}
