/* Whether tiles (AMX) can be compiled for, and whether they can be used here. */
#ifndef ATP_AMX_H
#define ATP_AMX_H

/* A compiler that brings the header knows the instructions. ATP_NO_AMX does without them. */
#if defined(__linux__) && defined(__x86_64__) && defined(__has_include) && !defined(ATP_NO_AMX)
#if __has_include(<amxbf16intrin.h>) || __has_include(<amxintrin.h>)
#define ATP_HAS_AMX
#endif
#endif

/* Not 0 where the processor has tiles of bfloat16 and the system lets us use them. */
int atp_amx_usable(void);

#endif
