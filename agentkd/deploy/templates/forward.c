/* Gives the last layer's numbers; NULL where nothing can be decided. */
static const float *NAME_forward(struct NAME_scratch *s, const float *obs@memory@)
{
    if (NAME_normalise@image@(obs, NAME_mean, NAME_scale, @clip@, @obs@, @channels@s->x) == 0)
        return NULL;
@calls@
    return NAME_finite(@last@, UPPER_OUT) != 0 ? @last@ : NULL;
}
