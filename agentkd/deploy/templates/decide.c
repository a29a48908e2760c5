static void NAME_decide(const @number@ *last, @action@ *action)
{
#case categorical
    action[0] = NAME_best(last, UPPER_OUT)@start@;
#case multicategorical
    for (int32_t i = 0; i < UPPER_ACTION; i++) {
        action[i] = NAME_best(last, NAME_sizes[i]);
        last += NAME_sizes[i];
    }
#case bernoulli
    for (int32_t i = 0; i < UPPER_ACTION; i++)
        action[i] = last[i] > 0.0f ? 1 : 0;
#case squashed
    for (int32_t i = 0; i < UPPER_ACTION; i++) {
        const float low = NAME_low[i], high = NAME_high[i];
        const float v = NAME_squash(last[i], low, high);
        action[i] = NAME_bound(v, low, high);
    }
#case clipped
    for (int32_t i = 0; i < UPPER_ACTION; i++)
        action[i] = NAME_bound(last[i], NAME_low[i], NAME_high[i]);
#end
}
