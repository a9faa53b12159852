"""What the notebooks need: profiles and runs, student versions, figures, the exercises' self-checks."""
