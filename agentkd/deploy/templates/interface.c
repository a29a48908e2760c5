static int NAME_run(const float *obs, @taken@@action@ *action,
@under_run@@number@ *out, struct NAME_scratch *s)
{
    const @number@ *const last = NAME_forward(s, obs@handed@);
    if (last == NULL)
        return 1;
    if (action != NULL)
        NAME_decide(last, action);
    if (out != NULL)
        for (int32_t i = 0; i < UPPER_OUT; i++)
            out[i] = last[i];
    return 0;
}

void NAME_reset(struct NAME_state *state)
{
@reset@}

int NAME_step(struct NAME_state *state, const float obs[UPPER_OBS],
@under_step@ @action@ *action, @number@ *out)
{
    return NAME_run(obs@own@, action, out, &state->scratch);
}

#ifndef UPPER_REENTRANT
static struct NAME_scratch NAME_own;

int NAME_act(const float obs[UPPER_OBS]@given@,
@under@@action@ action[UPPER_ACTION])
{
    return NAME_run(obs@handed@, action, NULL, &NAME_own);
}

int NAME_outputs(const float obs[UPPER_OBS]@given@,
@under@    @number@ out[UPPER_OUT])
{
    return NAME_run(obs@handed@, NULL, out, &NAME_own);
}
#endif
