"""Hardware: accelerators by name, the device of this process, layouts over devices, checks of a machine."""

from scalelab.registry import Registry

CHECKS = Registry(
    "check",
    {
        "python": "scalelab.hardware.checks.versions:check_python",
        "torch": "scalelab.hardware.checks.versions:check_torch",
        "packages": "scalelab.hardware.checks.packages:check_packages",
        "mlflow": "scalelab.hardware.checks.packages:check_mlflow",
        "runs": "scalelab.hardware.checks.run_directory:check_run_directory",
        "disk": "scalelab.hardware.checks.disk:check_disk",
        "processor": "scalelab.hardware.checks.processor:check_processor",
        "memory": "scalelab.hardware.checks.memory:check_memory",
        "driver": "scalelab.hardware.checks.driver:check_driver",
        "devices": "scalelab.hardware.checks.devices:check_devices",
        "capability": "scalelab.hardware.checks.capability:check_capability",
        "precision": "scalelab.hardware.checks.precision:check_precision",
        "compiler": "scalelab.hardware.checks.compile:check_compile",
        "attention": "scalelab.hardware.checks.attention:check_attention",
        "communication": "scalelab.hardware.checks.communication:check_communication",
        "sharing": "scalelab.hardware.checks.sharing:check_sharing",
        "clocks": "scalelab.hardware.checks.clocks:check_clocks",
    },
    group="scalelab.checks",
)
"""Checks of `scalelab doctor`: functions of a Machine that return a Finding, or None where they do not apply."""
