"""The samplers of k-diffusion as a scheduler of diffusers: DPM++ 3M SDE and its relatives.

The levels of all evaluations of the model are known before a run: they are its timesteps, one
evaluation a step, or two.
"""

import math
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .colorize_samplers import SAMPLERS, Draw, Levels, TwoStage

AUTOMATIC = "automatic"
SMALLEST_ALPHA = 2.0**-24  # share of signal from which zero terminal SNR starts
KARRAS_RHO = 7.0
SCHEDULES = (AUTOMATIC, "uniform", "Karras", "exponential", "polyexponential", "SGM uniform")


class ColorizeScheduler(SchedulerMixin, ConfigMixin):
    """A scheduler of diffusers that runs one of `SAMPLERS`.

    Its config has the names of diffusers' schedulers, so that another one is made of it with
    `from_config`.

    Attributes:
        timesteps: (E,) float32, where the model is evaluated; fractional.
        sigmas: (steps + 1,) the levels.
        level: the level of the latents where a step has ended; None inside a step.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        prediction_type: str = "v_prediction",
        rescale_betas_zero_snr: bool = False,
        timestep_spacing: str = "leading",
        steps_offset: int = 1,
        sampler: str = "DPM++ 3M SDE",
        schedule: str = AUTOMATIC,
    ):
        if beta_schedule != "scaled_linear":
            raise ValueError(f'got beta_schedule "{beta_schedule}", expected "scaled_linear"')
        if prediction_type not in ("v_prediction", "epsilon"):
            raise ValueError(
                f'got prediction_type "{prediction_type}", expected v_prediction or epsilon'
            )
        roots = np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=np.float64)
        rates = np.sqrt(np.cumprod(1.0 - roots**2))
        if rescale_betas_zero_snr:
            rates = (rates - rates[-1]) * rates[0] / (rates[0] - rates[-1])
        shares = np.maximum(rates**2, SMALLEST_ALPHA)
        self.alphas_cumprod = torch.from_numpy(rates**2).float()
        # Published samplers round the shares to float32, which shows in the smallest level.
        rounded = shares.astype(np.float32).astype(np.float64)
        self._log_sigmas = 0.5 * np.log((1.0 - rounded) / rounded)
        self._exact_sigmas = np.sqrt((1.0 - shares) / shares)
        self.set_timesteps(20)

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: str | torch.device | None = None,
        sampler: str | None = None,
        schedule: str | None = None,
    ) -> None:
        """Plan a run.

        Args:
            num_inference_steps: at least 1.
            device: of the timesteps.
            sampler: one of `SAMPLERS`, by default the config's.
            schedule: one of `SCHEDULES`, by default the config's.

        Raises:
            ValueError: there is no such sampler or schedule.
        """
        name, schedule = sampler or self.config.sampler, schedule or self.config.schedule
        for kind, value, known in (("sampler", name, SAMPLERS), ("schedule", schedule, SCHEDULES)):
            if value not in known:
                raise ValueError(f'got {kind} "{value}", expected one of {", ".join(known)}')
        self.num_inference_steps = num_inference_steps
        self._sampler = SAMPLERS[name]
        levels = self._plan(num_inference_steps, schedule).astype(np.float32)
        # A step between equal levels changes nothing, and two-step rules divide by its size.
        self._levels = levels[np.append(levels[:-1] > levels[1:], True)].tolist()
        self.sigmas = torch.tensor(self._levels)
        self._evaluations = self._plan_evaluations()
        t = self._timesteps([sigma for _, _, sigma in self._evaluations])
        self.timesteps = torch.from_numpy(t).to(device=device, dtype=torch.float32)
        first = self._levels[0]
        self.init_noise_sigma = (
            math.sqrt(1 + first**2) if self._sampler.spare is not None else first
        )
        self._done, self._memory, self._start, self.level = 0, None, None, None

    def _plan(self, steps: int, schedule: str) -> np.ndarray:
        """(steps + 1,) levels, the last of which is 0."""
        last, sampler = self.config.num_train_timesteps - 1, self._sampler
        if sampler.spare is not None:
            stride = self.config.num_train_timesteps // (steps + sampler.spare)
            t = np.arange(sampler.spare, steps + sampler.spare) * stride + 1
            return np.append(self._exact_sigmas[t[::-1]], 0.0)
        count = steps + int(sampler.drops_level)
        name = sampler.schedule if schedule == AUTOMATIC else schedule
        ends = self._log_sigmas[[-1, 0]]
        if name == "Karras":
            levels = np.linspace(*np.exp(ends / KARRAS_RHO), count) ** KARRAS_RHO
        elif name in ("exponential", "polyexponential"):
            levels = np.exp(np.linspace(*ends, count))
        else:
            t = np.linspace(last, 0, count)
            if name == "SGM uniform":
                t = np.linspace(last, 0, count + 1)[:-1]
            levels = np.exp(np.interp(t, np.arange(last + 1), self._log_sigmas))
        return np.append(levels[:steps], 0.0)

    def _plan_evaluations(self) -> list[tuple[int, int, float]]:
        """(step, stage, level) of every evaluation of the model."""
        rule, plan = self._sampler.rule, []
        for i in range(len(self._levels) - 1):
            plan.append((i, 0, self._levels[i]))
            if isinstance(rule, TwoStage) and self._levels[i + 1] > 0:
                plan.append((i, 1, rule.middle(self._levels, i)))
        return plan

    def _timesteps(self, sigmas: Levels) -> np.ndarray:
        """Fractional timesteps of levels: linear in log sigma."""
        steps = np.arange(self.config.num_train_timesteps)
        return np.interp(np.log(np.asarray(sigmas)), self._log_sigmas, steps)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Bring x to the scale of training."""
        sigma = self._evaluations[self._done][2]
        return sample / math.sqrt(sigma**2 + 1)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: Draw | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Go from one evaluation to the next.

        Args:
            model_output: (B, C, h, w) prediction at `timestep`.
            timestep: the next of `timesteps`; they are taken in their order.
            sample: (B, C, h, w) x there.
            generator: of the noise that stochastic samplers add.
            noise: number of the draw -> (B, C, h, w), in its place.
        """
        i, stage, sigma = self._evaluations[self._done]
        x, output = sample.float(), model_output.float()
        if self.config.prediction_type == "epsilon":
            x0 = x - sigma * output
        else:
            x0 = x / (sigma**2 + 1) - output * sigma / math.sqrt(sigma**2 + 1)

        def draw(number: int) -> Tensor:
            if noise is not None:
                return noise(number).to(x)
            return randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)

        levels, rule = self._levels, self._sampler.rule
        self._done += 1
        self.level = levels[i + 1]
        if not isinstance(rule, TwoStage):
            y, self._memory = rule(levels, i, x, x0, self._memory, draw)
        elif levels[i + 1] == 0:
            y = x0
        elif stage == 0:
            y, self._start, self.level = rule.predict(levels, i, x, x0, draw), (x, x0), None
        else:
            y = rule.correct(levels, i, *self._start, x, x0, draw)
        y = y.to(sample.dtype)
        return SchedulerOutput(prev_sample=y) if return_dict else (y,)

    @property
    def step_index(self) -> int:
        """The number of the step that is in work."""
        return self._evaluations[min(self._done, len(self._evaluations) - 1)][0]

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents of training, at integer timesteps (B,)."""
        share = self.alphas_cumprod.to(original_samples.device)[timesteps].to(original_samples)
        share = share.view(-1, *[1] * (original_samples.ndim - 1))
        return share.sqrt() * original_samples + (1 - share).sqrt() * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The target of v-prediction, at integer timesteps (B,)."""
        share = self.alphas_cumprod.to(sample.device)[timesteps].to(sample)
        share = share.view(-1, *[1] * (sample.ndim - 1))
        return share.sqrt() * noise - (1 - share).sqrt() * sample

    def __len__(self) -> int:
        return self.config.num_train_timesteps
