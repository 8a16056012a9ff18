"""One page, one question each; `main` is the frame, `shared` what every page uses."""
