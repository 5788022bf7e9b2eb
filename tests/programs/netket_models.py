"""Models of `netket`, quantum states of spins, and steps of Monte Carlo."""

import jax.numpy as jnp
import netket as nk
import numpy as np
import report

hilbert = nk.hilbert.Spin(s=1 / 2, N=6)
graph = nk.graph.Chain(6)
x = jnp.asarray(np.sign(np.random.RandomState(0).normal(size=(4, 6))))

MODELS = {
    "rbm": nk.models.RBM(alpha=2),
    "rbm_complex": nk.models.RBM(alpha=1, param_dtype=complex),
    "rbm_phase": nk.models.RBMModPhase(alpha=1),
    "rbm_symmetric": nk.models.RBMSymm(symmetries=graph.translation_group(), alpha=2),
    "jastrow": nk.models.Jastrow(),
    "mlp": nk.models.MLP(hidden_dims=(8, 4)),
    "deepset": nk.models.DeepSetMLP(features_phi=(8,), features_rho=(8,)),
    "gcnn": nk.models.GCNN(symmetries=graph, layers=2, features=2, mode="fft"),
    "vector": nk.models.LogStateVector(hilbert),
    "fast_dense": nk.models.FastARNNDense(hilbert=hilbert, layers=2, features=4),
    "fast_conv": nk.models.FastARNNConv1D(
        hilbert=hilbert, layers=2, features=4, kernel_size=2
    ),
    "gru": nk.experimental.models.GRUNet1D(hilbert=hilbert, layers=1, features=4),
    "fast_lstm": nk.experimental.models.FastLSTMNet(
        hilbert=hilbert, layers=1, features=4, graph=graph
    ),
    "mps": nk.models.tensor_networks.MPSPeriodic(hilbert=hilbert, bond_dim=2),
    "mpdo": nk.models.tensor_networks.MPDOOpen(
        hilbert=nk.hilbert.Spin(s=1 / 2, N=3), bond_dim=2
    ),
    "ndm": nk.models.NDM(alpha=1, beta=1),
}  # fmt: skip
for name, model in MODELS.items():
    report.model(name, model, x, grads=name in ("rbm", "gcnn", "fast_conv", "gru"))

operator = nk.operator.IsingJax(hilbert=hilbert, graph=graph, h=1.0)
for name, sampler, model in [
    ("metropolis", nk.sampler.MetropolisLocal(hilbert, n_chains=4), nk.models.RBM()),
    ("direct", nk.sampler.ARDirectSampler(hilbert), MODELS["fast_conv"]),
]:
    state = nk.vqs.MCState(sampler, model, n_samples=16, seed=1, sampler_seed=2)
    driver = nk.driver.VMC(operator, nk.optimizer.Sgd(0.1), variational_state=state)
    driver.run(2, out=nk.logging.RuntimeLog(), show_progress=False)
    report.found[name] = (state.parameters, state.samples, state.expect(operator).mean)
report.save()
