"""Numbers that stand for choices in the arguments of the raw ops."""

REPLACE, INSERT, ADD = range(3)
"""How a source goes into the stream: the index of its mode in `sources.MODES`."""

NOTHING, SAME_DTYPE, FLOAT32 = range(3)
"""Which gradient is wanted: none, in the dtype of the output's gradient, or in float32."""
