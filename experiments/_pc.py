from spen_jax.metrics import Expected, Fixed, Rule, Tuned
rules: tuple[type[Rule], ...] = (Fixed, Tuned, Expected)
r: Rule = Fixed()
s: Rule = Expected(1.0, 0.0, False)
