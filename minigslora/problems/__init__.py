"""Problems: what a benchmark is to a method."""
