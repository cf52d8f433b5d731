/* The two sides of a preference pair, and the segments of a completion: indices of everything that comes twice. */
#ifndef CATDPO_CORE_SIDE_H
#define CATDPO_CORE_SIDE_H

enum { PAIR_CHOSEN, PAIR_REJECTED, PAIR_SIDES };

/* A completion may have two segments: reasoning, then the answer. */
enum { SEGMENT_REASONING, SEGMENT_ANSWER, SEGMENTS };

#endif
