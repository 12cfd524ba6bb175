"""What SAM gains at which price, beside longer training and tuned weight decay.

Six trainings on real data, in up to twelve arms: the optimizer alone, with as much time as SAM takes, with tuned weight
decay; SAM in several forms; SAM in the last part of the training. Every arm is tuned with the same number of trainings
on a validation split, and then trained with five fresh seeds, which are scored on a test split that no choice has seen.

``data`` and ``tasks`` are the trainings, ``arms`` what is compared, ``training`` runs one, ``tuning`` chooses the
settings of an arm, ``run`` does all and continues after an interruption, ``sharpness`` measures the trained weights,
``report`` writes the page.
"""
