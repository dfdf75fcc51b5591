"""Layers and pure maths that the models share: one noun a file, the pure function first, its nnx module after it.

Legend of the shape letters. `x_BxLxC` has three axes, named below; where one letter could mean two things,
the docstring of the function says which.

  B  batch rows                     T  time steps; queries of attention    S  keys and values of attention
  L  length of a sequence           C  input channels; codes               F  output channels or features
  D  width of a model               E  inner width of a mixer              N  states of a scan; heads
  H  size of one head; horizon      K  chunks; heads of keys and values    W  taps of a convolution
  V  variables                      Q  quantiles                           M  mixture components
  R  rank of a low-rank projection  P  patches                             G  groups

Modules keep their parameters in float32 and compute in `dtype`; statistics, softmax, scans and their
outputs are float32. Masks are True where something takes part. Every random key is explicit.
"""
