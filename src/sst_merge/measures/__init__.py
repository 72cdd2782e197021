"""Pure numbers: intervals, resampling, safety tax, drift, fronts, ranks. No model, no file, no record."""
