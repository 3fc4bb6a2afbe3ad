"""Print the table of docs/formulas.md, "How near": worst errors of the kernel and of plain NumPy, region by region."""

import numpy as np
from reference import density_numpy
from test_density import REGIONS, compiled, outputs, problem, worst_errors

if __name__ == "__main__":
    print("| components | float64 | NumPy float64 | float32 | NumPy float32 |\n|---|---|---|---|---|")
    for region, keywords in REGIONS.items():
        cells = []
        for dtype in (np.float64, np.float32):
            arguments = problem(1000, 1, dtype, **keywords)
            with np.errstate(all="ignore"):
                plain = worst_errors(outputs(density_numpy, *arguments), arguments, dtype).max()
            cells += [f"{worst_errors(outputs(compiled, *arguments), arguments, dtype).max():.2g}", f"{plain:.2g}"]
        print(f"| {region} | {' | '.join(cells)} |")
