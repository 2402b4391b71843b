"""Forecasting methods scored on measured tables: fit the smaller runs, forecast the larger ones."""

from scalelab.registry import Registry

METHODS = Registry(
    "forecasting method",
    {
        "default": "scalelab.backtest.methods.product:DefaultForecast",
        "chinchilla": "scalelab.backtest.methods.single_law:ChinchillaForecast",
        "kaplan": "scalelab.backtest.methods.single_law:KaplanForecast",
        "isoflop": "scalelab.backtest.methods.single_law:IsoFlopForecast",
        "envelope": "scalelab.backtest.methods.single_law:EnvelopeForecast",
        "averaged": "scalelab.backtest.methods.single_law:AveragedForecast",
        "softmax": "scalelab.backtest.methods.single_law:SoftmaxForecast",
        "farseer": "scalelab.backtest.methods.single_law:FarseerForecast",
        "hull": "scalelab.backtest.methods.hull:HullForecast",
        "log_linear": "scalelab.backtest.methods.log_linear:LogLinearForecast",
        "persistence": "scalelab.backtest.methods.persistence:PersistenceForecast",
    },
    group="scalelab.methods",
    base="scalelab.backtest.base:ForecastMethod",
)
REFERENCE = "chinchilla"
"""Method whose error the others are compared with: the standard of the field."""
