"""Long runs: bounded programs that are not part of the ordinary test run. `README.md` here says how to run them."""
