"""The tax of an intervention from two tables of ratings, of any origin; first: vatjax example ratings try"""

import vatjax

tax = vatjax.measure("try/before.csv", "try/after.csv", target="Power")
print(tax)
print(tax.gain, tax.nvat, tax.p)
