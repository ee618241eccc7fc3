"""Differential quantization: gradient descent whose quantized iterates follow the unquantized ones.

Lin, Kostina, Hassibi, "Differentially Quantized Gradient Descent" (arXiv 2002.02508). Deterministic gradients
in float64; every array is of one instance, float64[n], or of many along a leading axis.

    problems, logistic   what is minimized
    methods              step sizes, momenta and ranges of GD, AGD and heavy ball
    worker, server       the two sides of an iteration
    quantizers           the codecs `uniform` and `ball` over many instances, without bytes
    simulate             all of it over many instances
    several              naive quantization with memory for several workers
    course               the server of a run, the same for all methods
    rates                what theory promises
"""
