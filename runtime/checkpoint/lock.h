/* runtime/checkpoint/lock.h -- who writes in a checkpoint folder: one process at a time.
 *
 * trainer/0 holds DIR/.lock for as long as it makes checkpoints there, and `saffron rollback` while it works: so no job goes on
 * from a checkpoint that is being set aside under it. It is a flock(), which ends with its process however that ends; on NFS it
 * holds between machines too (Linux 2.6.12 and later). Reading takes no lock. Any thread. */
#ifndef RT_STORE_LOCK_H
#define RT_STORE_LOCK_H

/* *lock: give it back by rt_store_unlock(), or end. RT_EFULL: another process holds it; RT_EFILE. Does not wait. */
int rt_store_lock(const char *dir, int *lock);
void rt_store_unlock(int lock);

#endif
