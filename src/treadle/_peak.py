"""What devices can do at most, as their makers state it.

The figures of the H100 (SXM and PCIe) and the A100 were compared with a second source. The others
carry the name of the sheet that has them, and are still to be compared with it.
"""

from collections.abc import Mapping
from typing import NamedTuple


class _Peak(NamedTuple):
    """Dense TFLOP/s of one device in matrix products; `None` where no datasheet says.

    Attributes:
        half: float16.
        bfloat16: bfloat16.
        single: float32 at JAX's default precision: TF32 on NVIDIA from Ampere on, bfloat16 on a TPU
            (`jax.lax.Precision.DEFAULT` says so).
        exact: float32 at `Precision.HIGHEST`.
    """

    half: float | None
    bfloat16: float | None
    single: float | None
    exact: float | None


# NVIDIA's sheets give tensor cores "with sparsity"; dense is half of it.
# "NVIDIA H100 Tensor Core GPU" datasheet; for PCIe, the H100 architecture whitepaper.
_H100_SXM = _Peak(989.4, 989.4, 494.7, 66.9)
_H100_PCIE = _Peak(756.5, 756.5, 378.0, 51.2)
_H100_NVL = _Peak(835.5, 835.5, 417.5, 60.0)
# "NVIDIA A100 Tensor Core GPU" datasheet: SXM and PCIe have the same peak.
_A100 = _Peak(312.0, 312.0, 156.0, 19.5)
# "NVIDIA V100 Tensor Core GPU" datasheet: neither bfloat16 nor TF32.
_V100_SXM2 = _Peak(125.0, None, 15.7, 15.7)
_V100_PCIE = _Peak(112.0, None, 14.0, 14.0)
# Cloud TPU documentation, "System architecture"; it has no figure for full float32. A device of
# JAX is a chip, but on v2 and v3 it is one of the chip's two cores.
_TPU_V2 = _Peak(None, 22.5, 22.5, None)
_TPU_V3 = _Peak(None, 61.5, 61.5, None)
_TPU_V4 = _Peak(None, 275.0, 275.0, None)
_TPU_V5E = _Peak(None, 197.0, 197.0, None)
_TPU_V5P = _Peak(None, 459.0, 459.0, None)
_TPU_V6E = _Peak(None, 918.0, 918.0, None)

# By `device.device_kind`, whole: a part of a device (MIG) has another name, and another peak.
_PEAKS = {
    # "NVIDIA HGX B200" datasheet, a GPU's share. For float32 the published figures differ.
    "NVIDIA B200": _Peak(2250.0, 2250.0, None, None),
    # "NVIDIA H200 Tensor Core GPU" datasheet: computes as an H100 does.
    "NVIDIA H200": _H100_SXM,
    "NVIDIA H200 NVL": _H100_NVL,
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H100 PCIe": _H100_PCIE,
    "NVIDIA H100 NVL": _H100_NVL,
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "Tesla V100-SXM2-16GB": _V100_SXM2,
    "Tesla V100-SXM2-32GB": _V100_SXM2,
    "Tesla V100-PCIE-16GB": _V100_PCIE,
    "Tesla V100-PCIE-32GB": _V100_PCIE,
    # "NVIDIA T4" datasheet.
    "Tesla T4": _Peak(65.0, None, 8.1, 8.1),
    # "NVIDIA L4 Tensor Core GPU" datasheet.
    "NVIDIA L4": _Peak(121.0, 121.0, 60.0, 30.3),
    # "NVIDIA L40S" datasheet.
    "NVIDIA L40S": _Peak(362.05, 362.05, 183.0, 91.6),
    # "NVIDIA A10 Tensor Core GPU" datasheet. (The A10G is another card, without a public sheet.)
    "NVIDIA A10": _Peak(125.0, 125.0, 62.5, 31.2),
    "TPU v2": _TPU_V2,
    "TPU v3": _TPU_V3,
    "TPU v4": _TPU_V4,
    "TPU v5 lite": _TPU_V5E,
    "TPU v5e": _TPU_V5E,
    "TPU v5": _TPU_V5P,
    "TPU v5p": _TPU_V5P,
    "TPU v6 lite": _TPU_V6E,
    "TPU v6e": _TPU_V6E,
}


def peak_flops(device_kind: str, products: Mapping[str, float]) -> float | None:
    """The most FLOP/s that one device can do in a step of these products; `None` if unknown.

    Where a step mixes kinds of arithmetic, each has its share of the time.

    Args:
        device_kind: `device.device_kind`, as JAX gives it.
        products: How many operations, by the arithmetic asked for (`Flops.products`).
    """
    peak = _PEAKS.get(device_kind)
    if peak is None or not products:
        return None
    names = {
        "float16": peak.half,
        "bfloat16": peak.bfloat16,
        "float32": peak.single,
        # Three passes of bfloat16 on a TPU, for which there is no figure; else as by default.
        "float32 high": peak.single if peak.exact is not None else None,
        "float32 highest": peak.exact,
    }
    seconds = 0.0
    for name, number in products.items():
        most = names.get(name)
        if most is None:
            return None
        seconds += number / (most * 1e12)
    return sum(products.values()) / seconds if seconds else None
