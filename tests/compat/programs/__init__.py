"""Random Linen programs, run on Flax and on linsey and compared.

A program is a value (`syntax.Program`): classes of modules with fields and methods, the
functions they use, and a script that initializes, applies, differentiates and inspects
them. It prints as Python source in which `nn` is the only free name, so that a person
can run it against either library; the source is executed once with each and all that
it leaves behind is compared (`compare`). What `docs/compatibility.md` lists is left out
(`known`), and the source of the rest is made as short as possible (`reduce`).

Program `index` of `seed` is a function of these two numbers and of this code, drawn by
`random.Random`, not by hypothesis: a batch of thousands can then begin anywhere, run in
several processes, and leave a program behind that everyone makes again from two
numbers. It is also several times faster, and sources are shortened as sources, better
than as sequences of choices.

    python -m tests.compat.programs --seed 1 --from 0 --count 2000 [--numeric]
    python -m tests.compat.programs --seed 1 --show 17
"""
