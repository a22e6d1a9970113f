"""What is learned? Endless streams of examples, each a pure function of seed and time.

In go seeds, a time and a number of examples; out come inputs X and targets or labels Y for all runs
at once (`stream.Stream`). A problem knows nothing of learners, experiments or the command line.
"""
