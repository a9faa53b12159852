"""What only the notebooks need: figures, exercise checks, profiles and runs, student versions."""
