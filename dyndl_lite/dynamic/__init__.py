"""How does a network grow, unit by unit, and learn at every moment? Sizes come in, a learner goes out.

After Richard Sutton's talk "Toward a better deep learning" (2024), in its words. The *backbone* is
the units that are listened to; the *fringe* those that nobody listens to yet. A unit's *hunger* is
the error that reaches it: what it would like to say more of. A unit of the fringe serves a
*master*, the one that hungered most when it was born, through a *shadow weight*: it learns as if
the master listened to it with that weight. It is born with an *imprint*: weights that fit the
example of its birth.
"""
