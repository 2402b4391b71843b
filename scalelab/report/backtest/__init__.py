"""The report of a backtest: the board, its figures, and what it rests on."""
