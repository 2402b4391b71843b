"""Recurrent language models: LSTM layers of one width."""
