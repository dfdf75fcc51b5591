"""Realised volatility of the past and of the days that follow: what the TCN predicts."""
