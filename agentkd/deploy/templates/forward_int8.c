/* Gives the last layer's integers; NULL where nothing can be decided. */
static const int32_t *NAME_forward(struct NAME_scratch *s, const float *obs@memory@)
{
    if (NAME_i8_input@image@(obs, NAME_mean, NAME_gain, @limit@, UPPER_OBS@channels@, s->x))
        return NULL;
@calls@
#case squashed
    for (int i = 0; i < UPPER_OUT; i++) {
        const int64_t product = (int64_t)s->last[i] * NAME_half[i];
        s->last[i] = NAME_centre[i] + (int32_t)((product + 16384) >> 15);
    }
#end
    return s->last;
}
