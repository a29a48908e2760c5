#ifndef UPPER_H
#define UPPER_H

#include <stdint.h>

#define UPPER_OBS @obs@
#define UPPER_OUT @out@
#define UPPER_ACTION @actions@@define@

#ifdef __cplusplus
extern "C" {
#endif

/* Every function that returns int returns 0, or 1 where the observation, or what the
 * network makes of it, is NaN or infinite; then no action and no output is written.
 * Observations are as the environment gives them: the normaliser is inside.@obs_note@
 * @action_note@
 * @out_note@ */

/* What an action is made of. */
typedef @action@ NAME_number;

/* What a decision writes on its way. */
struct NAME_scratch {
@scratch@};

/* All that changes from tick to tick: one for each thread, robot or environment. */
struct NAME_state {
@field@    struct NAME_scratch scratch;
};

/* Begin an episode. */
void NAME_reset(struct NAME_state *state);

/* Decide for one observation. `action` takes UPPER_ACTION numbers and `out` the last
 * layer's UPPER_OUT; either may be NULL. Re-entrant: call it with a state of its own
 * from each thread. */
int NAME_step(struct NAME_state *state, const float obs[UPPER_OBS],
@under_step@ @action@ *action, @number@ *out);

#ifndef UPPER_REENTRANT
/* The same with one static scratch buffer, for one caller at a time. Define
 * UPPER_REENTRANT to leave these out.@note@ */
int NAME_act(const float obs[UPPER_OBS]@given@,
@under@@action@ action[UPPER_ACTION]);
int NAME_outputs(const float obs[UPPER_OBS]@given@,
@under@    @number@ out[UPPER_OUT]);
#endif

#ifdef __cplusplus
}
#endif

#endif /* UPPER_H */
