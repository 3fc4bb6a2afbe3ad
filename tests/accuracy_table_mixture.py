"""Print the table of docs/formulas.md, "How near" of the log-domain levels: the worst errors, group by group."""

from test_accuracy import FLOATS, GROUPS, LEVELS, worst_errors

if __name__ == "__main__":
    # float64: in eps of the terms; float32: in units of the last place of the result
    columns = [f"{dtype.__name__} {what}" for dtype in FLOATS[::-1] for what in ("value", "derivative")]
    print(f"| function | group | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for level in LEVELS:
        for group in GROUPS:
            cells = [f"{error:.2g}" for dtype in FLOATS[::-1] for error in worst_errors(level, group, dtype)]
            print(f"| `{level.replace(', ', '`, ')}{'' if ',' in level else '`'} | {group} | {' | '.join(cells)} |")
