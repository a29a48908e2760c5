static void NAME_decide(const @number@ *last, @action@ *action)
{
#case categorical
    int32_t best = 0;
    for (int32_t i = 1; i < UPPER_OUT; i++)
        if (last[i] > last[best])
            best = i;
    action[0] = best + (@start@);
#case multicategorical
    for (int32_t k = 0; k < UPPER_ACTION; k++) {
        int32_t best = 0;
        for (int32_t i = 1; i < NAME_sizes[k]; i++)
            if (last[i] > last[best])
                best = i;
        action[k] = best;
        last += NAME_sizes[k];
    }
#case bernoulli
    for (int32_t i = 0; i < UPPER_ACTION; i++)
        action[i] = last[i] > 0;
#case squashed clipped
    for (int32_t i = 0; i < UPPER_ACTION; i++) {
        float v = (float)last[i] * @step@;
        v = v < NAME_high[i] ? v : NAME_high[i];
        action[i] = v > NAME_low[i] ? v : NAME_low[i];
    }
#end
}
