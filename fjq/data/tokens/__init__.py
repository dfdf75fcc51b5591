"""Tokens of candles: made once, cached, and cut into windows for a GPT."""
