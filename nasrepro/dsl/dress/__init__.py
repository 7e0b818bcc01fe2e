"""The dresses of a cell: drawing, equations, flow chart, PyTorch source. `Cell.to_svg()` etc. call them."""
