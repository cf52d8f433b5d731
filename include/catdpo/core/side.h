/* The two sides of a preference pair: indices of everything that a pair has twice. */
#ifndef CATDPO_CORE_SIDE_H
#define CATDPO_CORE_SIDE_H

enum { PAIR_CHOSEN, PAIR_REJECTED, PAIR_SIDES };

#endif
