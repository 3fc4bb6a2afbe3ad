from cymdn._arrays import FloatArray

BLOCK: int

def density(
    x: FloatArray,
    mean: FloatArray,
    stddev: FloatArray,
    correlation: FloatArray,
    smooth_eps: float,
    density_out: FloatArray,
    dmean_out: FloatArray | None = None,
    dstddev_out: FloatArray | None = None,
    dcorrelation_out: FloatArray | None = None,
) -> None: ...
