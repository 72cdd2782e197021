"""Pure numbers: what is computed from scores, one score per prompt.

The contract of this room:

- A measure takes numbers and gives numbers. It knows no model, no file, no configuration, no table and no log.
- Rates are shares between 0 and 1, never per cent; angles are degrees.
- A figure with its 95 % interval is a :class:`~sst_merge.measures.figure.Figure`. A figure that is not defined for its
  input, such as the tax of a method that never gets safe, is None.
- Random draws come from a seed that is an argument; the same input and seed give the same figure.
- Figures that are compared are paired: the same prompts, drawn together.
- *Draws* of a figure are an array whose entry 0 is the figure of the samples themselves and whose other entries are one
  bootstrap draw each; :func:`~sst_merge.measures.resampling.figure_of` makes the figure of them.

How to add a figure: ``docs/extending/figure.md``.
"""
