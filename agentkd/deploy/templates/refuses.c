/* 1 if an observation is refused for NaN or infinity in one place. */
static int NAME_refuses(void)
{
    static const uint32_t bad[] = {
        0x7FC00000u, 0x7F800001u, 0x7F800000u, 0xFF800000u};
    static struct NAME_state state;
    static float obs[UPPER_OBS];
    int refused = 1;
    NAME_reset(&state);
    for (int32_t i = 4 * UPPER_OBS - 1; i >= 0; i -= 1 + UPPER_OBS / 32) {
        @action@ action[UPPER_ACTION] = {0};
        memcpy(obs + i / 4, bad + i % 4, sizeof *obs);
        refused &= NAME_step(&state, obs, action, NULL) == 1;
        obs[i / 4] = 0.0f;
    }
    return refused;
}
