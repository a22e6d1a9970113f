"""What happens, how fast, and how sure are we? Learners and streams come in, tables and figures go out.

`run` is the one loop, `ensemble` runs learners in it, `drivers` make it fast, `checkpoint` lets it go on;
`diagnostics` look inside, `compare` and `plots` say what it shows.
"""
