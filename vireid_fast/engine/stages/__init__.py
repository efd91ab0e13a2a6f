"""Parts that the stages of several methods are made of."""
