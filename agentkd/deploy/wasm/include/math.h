/* The functions of <math.h> that exported C calls, where no C library is. They compute in
 * double precision: the error is below 0.51 units in the last place, and NaN stays NaN. */
#ifndef AGENTKD_WASM_MATH_H
#define AGENTKD_WASM_MATH_H

#include <stdint.h>

#define fabsf __builtin_fabsf
#define sqrtf __builtin_sqrtf

/* Splits exp(x), |x| < 700, into a power of 2, which is returned, and 1 + rest: x is k ln 2
 * and at most ln 2 / 2 more, for which nine terms of the series are within 2e-11. */
static inline double agentkd_power(double x, double *rest)
{
    /* Adding 1.5 * 2^52 rounds to an integer, which lies in the lowest bits. */
    const double magic = 6755399441055744.0;
    const double shifted = x * 1.4426950408889634 + magic;
    const double r = x - (shifted - magic) * 0.6931471805599453;
    double series = 1.0 / 362880.0, scale;
    uint64_t bits;
    series = series * r + 1.0 / 40320.0;
    series = series * r + 1.0 / 5040.0;
    series = series * r + 1.0 / 720.0;
    series = series * r + 1.0 / 120.0;
    series = series * r + 1.0 / 24.0;
    series = series * r + 1.0 / 6.0;
    series = series * r + 0.5;
    *rest = (series * r + 1.0) * r;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023u) << 52;
    __builtin_memcpy(&scale, &bits, sizeof scale);
    return scale;
}

/* Comparisons leave NaN as it is. */
static inline double agentkd_within(double x, double low, double high)
{
    x = x > high ? high : x;
    return x < low ? low : x;
}

static inline float expf(float x)
{
    double rest;
    const double scale = agentkd_power(agentkd_within(x, -150.0, 130.0), &rest);
    return (float)(scale * rest + scale);
}

static inline float expm1f(float x)
{
    double rest;
    const double scale = agentkd_power(agentkd_within(x, -150.0, 130.0), &rest);
    return (float)(scale * rest + (scale - 1.0));
}

static inline float tanhf(float x)
{
    double rest;
    const double scale = agentkd_power(agentkd_within(2.0 * x, -40.0, 40.0), &rest);
    const double t = scale * rest + (scale - 1.0);
    return (float)(t / (t + 2.0));
}

#endif
