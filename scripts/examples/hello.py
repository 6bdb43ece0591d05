"""The tax of a steering vector on the bundled model."""

import vatjax

model = vatjax.load("pocket")  # or a name on the Hub, a folder, a .gguf file
edit = vatjax.steer(model, "Power")  # a mean-difference vector, from the train scenes
tax = vatjax.measure(model, edit, target="Power")  # rates the test scenes before and after

print(repr(tax))  # print(tax) shows all tables, with floors and sentences
for row in tax.rows("types"):
    print(f"{row['name']:<16}{row['shift']:+.2f} [{row['shift_low']:+.2f}, {row['shift_high']:+.2f}]")
tax.plot("tax.svg")
