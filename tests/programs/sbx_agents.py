"""Agents of `sbx-rl`: some steps of training, CrossQ with its own normalization."""

import gymnasium as gym
import numpy as np
import report
import sbx

for name, environment, options in [
    ("PPO", "CartPole-v1", {"n_steps": 32, "batch_size": 16, "n_epochs": 2}),
    ("SAC", "Pendulum-v1", {"learning_starts": 8, "batch_size": 8}),
    ("CrossQ", "Pendulum-v1", {"learning_starts": 8, "batch_size": 8}),
    ("DQN", "CartPole-v1", {"learning_starts": 8, "batch_size": 8, "train_freq": 1}),
]:
    net_arch = [8, 8]
    model = getattr(sbx, name)(
        "MlpPolicy",
        gym.make(environment),
        seed=0,
        policy_kwargs={"net_arch": net_arch},
        **options,
    )
    states = {
        key: getattr(model.policy, key)
        for key in ("actor_state", "qf_state", "vf_state")
        if hasattr(model.policy, key)
    }
    report.found[name + "_params"] = {k: s.params for k, s in states.items()}
    model.learn(32 if name == "PPO" else 12)
    trained = {key: getattr(model.policy, key).params for key in states}
    report.found[name] = trained
    space = model.observation_space
    observation = np.linspace(-1, 1, int(np.prod(space.shape)), dtype=np.float32)
    report.found[name + "_action"] = model.predict(observation, deterministic=True)[0]
report.save()
