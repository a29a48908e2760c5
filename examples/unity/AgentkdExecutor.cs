// An executor exported by agentkd, in Unity or any .NET: plugin.c, called by P/Invoke.

using System;
using System.Runtime.InteropServices;

/// <summary>An executor with a memory of its own: one for each character.</summary>
public sealed class AgentkdExecutor : IDisposable
{
#if UNITY_IOS && !UNITY_EDITOR
    const string Library = "__Internal";
#else
    const string Library = "agentkd";
#endif

    [DllImport(Library)] static extern int agentkd_obs();
    [DllImport(Library)] static extern int agentkd_actions();
    [DllImport(Library)] static extern IntPtr agentkd_open();
    [DllImport(Library)] static extern void agentkd_close(IntPtr state);
    [DllImport(Library)] static extern void agentkd_reset(IntPtr state);
    [DllImport(Library)]
    static extern int agentkd_act(
        IntPtr state, float[] obs, int obsLength, float[] action, int actionLength);

    IntPtr state;

    /// <summary>The last action, in the environment's units; a choice is one number.</summary>
    public readonly float[] Action;

    public AgentkdExecutor()
    {
        Action = new float[agentkd_actions()];
        state = agentkd_open();
        if (state == IntPtr.Zero) throw new OutOfMemoryException("No space for an executor.");
    }

    ~AgentkdExecutor() { Dispose(); }

    /// <summary>Numbers of an observation.</summary>
    public static int ObsSize { get { return agentkd_obs(); } }

    /// <summary>
    /// Decides for one observation into <c>Action</c>; allocates nothing. Returns false, and leaves
    /// the action as it was, if the observation holds NaN or infinity.
    /// </summary>
    public bool Act(float[] obs)
    {
        if (state == IntPtr.Zero) throw new ObjectDisposedException("AgentkdExecutor");
        int status = agentkd_act(state, obs, obs.Length, Action, Action.Length);
        if (status == 2)
            throw new ArgumentException(
                "The observation has " + obs.Length + " numbers, not " + ObsSize + ".");
        return status == 0;
    }

    /// <summary>Begins an episode.</summary>
    public void Reset()
    {
        if (state == IntPtr.Zero) throw new ObjectDisposedException("AgentkdExecutor");
        agentkd_reset(state);
    }

    public void Dispose()
    {
        IntPtr was = state;
        state = IntPtr.Zero;
        if (was != IntPtr.Zero) agentkd_close(was);
        GC.SuppressFinalize(this);
    }
}
