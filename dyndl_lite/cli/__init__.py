"""How is the walk run, and do its results agree with what the papers claim?

In come words from the command line (`dyndl run 01 -p runs 5`) and notebooks as `.py`; out go
executed notebooks, times and verdicts under `build/`.
"""
