"""Is it really forgotten? One attack a file, with who attacks, what is measured, what it does not prove.

Nothing is compared with zero. Everything is compared with *oracles*: models of the same architecture,
trained from scratch by the same recipe on all images of the retained classes
(:mod:`minigslora.audit.verdict`).
"""
