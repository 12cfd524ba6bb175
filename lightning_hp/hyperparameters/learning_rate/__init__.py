"""Where the learning rate of a user's training is kept, and how it is read and written.

Its place (``home``)
    The *home* of a learning rate is the attribute or hyperparameter of the module that ``configure_optimizers`` builds
    on (``lr``, ``learning_rate``, or a name that the user gives). If there is none, the learning rate is only in the
    optimizers and schedulers themselves.

How the place is found (``probe``, ``numbers``)
    ``configure_optimizers`` runs with two values of the attribute, and every number in the optimizers and schedulers is
    compared. Numbers that change in proportion follow the attribute.

How a new learning rate is written (``rebuild``, ``rescale``)
    With a home, before the training: the home is written and ``configure_optimizers`` runs again, which is what happens
    when a user edits the value. Without a home, or during the training: every learning rate in the optimizers and
    schedulers is multiplied by one factor.

What is refused (``home``, ``refusals``)
    An attribute that a learning rate depends on, but not in proportion. A training without a learning rate, and a
    schedule for which multiplying its rates is not the same as building it on the new one.

What a schedule makes of it (``schedule``, ``simulation``)
    The schedulers are simulated on copies: how high each group gets, and when, and what momentum it has.

``learning_rate`` holds the class that offers all this, :class:`LearningRate`. ``warmup`` lowers the rates of the first
steps of a training without writing them.
"""
