"""The maths of the learning rate: range test, rules, scaling, warm-up."""
