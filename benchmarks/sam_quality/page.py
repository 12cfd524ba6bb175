"""The text of the page ``sam_quality.md``."""

PAGE = """\
# What SAM gains, and at which price

{tasks} trainings on real data, each with SGD or AdamW alone (*base*), with as many epochs as fit into the time of
SAM, with tuned weight decay, and with SAM in several forms. **All arms were tuned with the same number of
trainings** on a validation split; then each was trained with {seeds} other seeds. All accuracies are of a test split
that no choice has seen.

## All tasks

Points of test accuracy against the base and against tuned weight decay on the same seeds, mean over the tasks ±
standard error (of the seeds); in how many tasks the arm is better and worse by more than {clear} standard errors, which
is the 5 % level for five seeds (bold); and the processor time, median over the tasks.

{summary}

![Accuracy against the base, and the time of a training](sam_quality.png)

## SAM in the last part of the training

Points against SAM in every step, on the same seeds, ± standard error. The learning rate is constant after a short
warm-up and falls to zero over the last {decay:.0%} of the steps, which is where `start="decay"` begins.

{tails}

## Each task

*Accuracy*: on the test split, mean and standard deviation over the seeds. *Time*: processor time over that of the
base on the same seed, median. *Passes*: forward and backward passes over those of the base. *Chosen*: learning rate,
and the number of the arm that was tuned with it.

{every}

## The text encoder at a quarter of the suggested rate

The suggested rate was four times too high for the text encoder, and only the base could leave it by so much (see
*Method*). All arms were tuned and trained again with all rates divided by four. This repetition was decided on after
the table above, and it is not part of the means.

{repeated}

## Sharpness

Of the loss over samples that were trained on, with the labels that were trained with, mean over the seeds: the
largest eigenvalue of the Hessian, and how much the loss rises within a radius in the direction that {steps} steps of
gradient ascent find. BatchNorm uses its running statistics.

{sharpness}

## Method

- **Schedule**: a warm-up over {warm_up:.0%} of the steps, the highest rate, a linear decay to zero over the last
  {decay:.0%}. It is the same in all arms.
- **Tuning**: six values (in the first two tasks; four in the others) of the arm's own number (`rho`, the weight
  decay, or for the base the learning rate) at the learning rate that [`LRFinder`](../cards/lr_finder.md) suggests,
  then two other learning rates at the best of them. The finder ran once without SAM and once with `rho=0.1` in every
  step; the second rate is the first one of the arms with SAM in every step or in every second. One seed, which is not
  among those that are reported. The highest validation accuracy wins, then the lowest validation loss. Validation
  labels are right, also where training labels are wrong.
- **Weight decay** is {sgd} for SGD and {adamw} for AdamW where it is not tuned.
- **SAM's time**: the number of epochs was multiplied by the measured ratio of the times of SAM and the base.
- **Seeds** change the initial weights, the order of the samples and the wrong labels, not the split.
- **Time** includes Lightning and the callback. In networks as small as these they are a large part of it, so that SAM
  costs more than its two passes; see [the cost of a step](sam_cost.md).
- **Sharpness**: {samples} samples and {sharpness_seeds} seeds; {large},
  and four of the arms.

The networks are small and the trainings short. A difference that is not bold may be chance, and with {tasks} tasks
and {arms} arms a few of those above it are too. One seed for tuning means that some arm had luck with its settings in
some task.

**The base has the widest range of learning rates**, since the rate is its own number: an eighth to four times the
suggested one, a quarter to twice where four values are tried; the other arms have half to twice. Where labels are
wrong, the base prefers a rate so low that it does not memorise them in these few epochs. For the text encoder the
suggested rate was four times too high, which only the base could leave; its lead over all other arms there is that of
the rate, and the fair comparison with SAM is the one against tuned weight decay.

`PYTHONPATH=. python -m benchmarks --only sam_quality` continues or repeats the benchmark (delete `sam_quality.json`
to repeat; {hours:.1f} hours on one core); all trainings are in `sam_quality.json`. Measured on {date} with
{versions}, on one CPU thread.
"""
