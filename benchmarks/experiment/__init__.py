"""The paper's figures 3 and 4 in small: binary preferences against language feedback, by four methods.

arms      what each policy is trained by, and on what
bench     one stack with one seed's data: jobs that are run once, answers, and the oracle's verdicts on them
policies  trains the policy of an arm
rewards   how good a reward is, and how far it and the oracle part while a policy learns to get it
summary   shares and gains with intervals, from raw outcomes
page      the table, the page and the plot
"""
