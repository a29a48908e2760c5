/* Runs an exported executor: observations come on stdin and answers leave on stdout, as raw
 * 32-bit words. OBS, OUT, ACTIONS, MEMORY and the type ACTION are defined by the compiler's
 * options; with AKX, the bytes that a model takes, the fixed runtime reads one. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef AKX
#include "akx.h"
#else
#include "executor.c"
#endif

#if MEMORY > 0
#define GIVEN(memory) memory,
#else
#define GIVEN(memory)
#endif

int main(int argc, char **argv)
{
    static float obs[OBS], out[OUT];
    static float memory[MEMORY + 1], copy[MEMORY + 1];
    static ACTION action[ACTIONS];
    int status = 0;
#ifdef AKX
    struct akx net;
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    void *data = malloc(AKX);
    size_t length = 0;
    if (file != NULL && data != NULL)
        length = fread(data, 1, AKX, file);
    if (file != NULL)
        fclose(file);
    status = akx_open(&net, data, length);
    const size_t floats = status == 0 ? akx_scratch(&net) : 1;
    float *scratch = calloc(floats, sizeof *scratch);
#else
    (void)argc;
    (void)argv;
#endif
    while (status == 0 && fread(obs, sizeof obs, 1, stdin) == 1) {
        memcpy(copy, memory, sizeof copy);
#ifdef AKX
        status = akx_outputs(&net, obs, copy, scratch, floats, out);
        if (status == 0)
            status = akx_act(&net, obs, memory, scratch, floats, CHOICES);
#else
        status = executor_outputs(obs, GIVEN(copy) out);
        status |= executor_act(obs, GIVEN(memory) action);
#endif
        if (status == 0) {
            fwrite(out, sizeof out, 1, stdout);
            fwrite(action, sizeof action, 1, stdout);
        }
    }
#ifdef AKX
    free(scratch);
    free(data);
#endif
    return status;
}
