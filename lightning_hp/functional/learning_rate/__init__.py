"""The learning rate: the range test and how its curve is read, scaling with the batch size, warm-up.

`range_test` gives the learning rates of the test and says when it may stop, `curve` smooths the recorded losses and
finds their first valley, `suggestion` reads a learning rate from the valley, and `rules` holds the rules of other
learning-rate finders. `short_trainings` chooses a rate by short trainings; `tried_rates`, `training_schedule` and
`training_losses` say at which rates they run, with which rates in their steps, and how their losses are compared.
`scaling` converts a learning rate to another batch size. `parameter_free` recognises optimizers that find their own
step size, `step_lengths` those whose steps get longer or shorter by themselves.
"""
