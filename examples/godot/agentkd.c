/* A GDExtension for Godot 4.2 and later: the class AgentkdExecutor, an executor exported to C.
 *
 *   act(obs: PackedFloat32Array) -> PackedFloat32Array   empty where nothing can be decided
 *   reset()                                              an episode begins
 *
 * Choices come as numbers too. Each object has a memory of its own. */
#include <stdlib.h>
#include <string.h>

#include "executor.h"
#include "gdextension_interface.h"

#ifdef _WIN32
#define SHOWN __declspec(dllexport)
#else
#define SHOWN __attribute__((visibility("default")))
#endif

/* Room for a value of Godot's that is passed by address; none here is larger than 16 bytes. */
typedef union {
    void *align;
    unsigned char bytes[16];
} value;

/* What Godot offers, found by name. */
static struct {
    GDExtensionInterfaceClassdbConstructObject construct;
    GDExtensionInterfaceClassdbRegisterExtensionClass2 add_class;
    GDExtensionInterfaceClassdbRegisterExtensionClassMethod add_method;
    GDExtensionInterfaceClassdbUnregisterExtensionClass remove_class;
    GDExtensionInterfaceObjectSetInstance set_instance;
    GDExtensionInterfacePackedFloat32ArrayOperatorIndex at;
    GDExtensionInterfacePackedFloat32ArrayOperatorIndexConst at_const;
    GDExtensionInterfacePrintError print_error;
    GDExtensionInterfaceStringNameNewWithLatin1Chars name;
    GDExtensionInterfaceStringNewWithUtf8Chars string;
    GDExtensionPtrBuiltInMethod resize, size;
    GDExtensionPtrConstructor new_array;
    GDExtensionPtrDestructor end_array, end_name, end_string;
    GDExtensionVariantFromTypeConstructorFunc to_variant;
    GDExtensionTypeFromVariantConstructorFunc from_variant;
} godot;
static GDExtensionClassLibraryPtr library;

/* Does `use` while `variable` is a StringName of `text`. */
#define WITH_NAME(variable, text, use)    \
    do {                                  \
        value variable;                   \
        godot.name(&variable, text, 0);   \
        use;                              \
        godot.end_name(&variable);        \
    } while (0)

static void complain(const char *text)
{
    godot.print_error(text, "AgentkdExecutor.act", __FILE__, __LINE__, 0);
}

/* Decides for one array, and leaves the action in another. */
static void decide(struct executor_state *state, GDExtensionConstTypePtr obs,
                   GDExtensionTypePtr answer)
{
    executor_number action[EXECUTOR_ACTION];
    int64_t count = 0, given = 0, ignored = 0;
    const void *length = &count;
    godot.size((GDExtensionTypePtr)obs, NULL, &given, 0);
    if (given != EXECUTOR_OBS)
        complain("The observation has another number of numbers than the executor takes.");
    else if (executor_step(state, godot.at_const(obs, 0), action, NULL) != 0)
        complain("The observation, or what the network makes of it, is NaN or infinite.");
    else
        count = EXECUTOR_ACTION;
    godot.resize(answer, &length, &ignored, 1);
    for (int64_t i = 0; i < count; i++)
        *godot.at(answer, i) = (float)action[i];
}

static void act_by_pointers(void *method, GDExtensionClassInstancePtr self,
                            const GDExtensionConstTypePtr *arguments, GDExtensionTypePtr answer)
{
    (void)method;
    decide((struct executor_state *)self, arguments[0], answer);
}

static void act_by_variants(void *method, GDExtensionClassInstancePtr self,
                            const GDExtensionConstVariantPtr *arguments, GDExtensionInt count,
                            GDExtensionVariantPtr answer, GDExtensionCallError *error)
{
    value obs, action;
    (void)method;
    error->error = GDEXTENSION_CALL_OK;
    if (count != 1) {
        error->error = count < 1 ? GDEXTENSION_CALL_ERROR_TOO_FEW_ARGUMENTS
                                 : GDEXTENSION_CALL_ERROR_TOO_MANY_ARGUMENTS;
        error->argument = error->expected = 1;
        return;
    }
    godot.from_variant(&obs, (GDExtensionVariantPtr)arguments[0]);
    godot.new_array(&action, NULL);
    decide((struct executor_state *)self, &obs, &action);
    godot.to_variant(answer, &action);
    godot.end_array(&action);
    godot.end_array(&obs);
}

static void reset_by_pointers(void *method, GDExtensionClassInstancePtr self,
                              const GDExtensionConstTypePtr *arguments, GDExtensionTypePtr answer)
{
    (void)method;
    (void)arguments;
    (void)answer;
    executor_reset((struct executor_state *)self);
}

static void reset_by_variants(void *method, GDExtensionClassInstancePtr self,
                              const GDExtensionConstVariantPtr *arguments, GDExtensionInt count,
                              GDExtensionVariantPtr answer, GDExtensionCallError *error)
{
    (void)method;
    (void)arguments;
    (void)count;
    (void)answer;
    error->error = GDEXTENSION_CALL_OK;
    executor_reset((struct executor_state *)self);
}

static GDExtensionObjectPtr create(void *data)
{
    struct executor_state *const self = (struct executor_state *)malloc(sizeof *self);
    GDExtensionObjectPtr object = NULL;
    (void)data;
    if (self == NULL)
        return NULL;
    executor_reset(self);
    WITH_NAME(parent, "RefCounted", object = godot.construct(&parent));
    WITH_NAME(own, "AgentkdExecutor", godot.set_instance(object, &own, self));
    return object;
}

static void destroy(void *data, GDExtensionClassInstancePtr self)
{
    (void)data;
    free(self);
}

/* Adds a method that takes an array and gives one, or, plain, neither. */
static void add_method(const char *title, GDExtensionClassMethodCall call,
                       GDExtensionClassMethodPtrCall pointers, GDExtensionBool plain)
{
    value empty, none, argument, own, name;
    GDExtensionPropertyInfo array, answer;
    GDExtensionClassMethodArgumentMetadata metadata = GDEXTENSION_METHOD_ARGUMENT_METADATA_NONE;
    GDExtensionClassMethodInfo info;
    godot.name(&own, "AgentkdExecutor", 0);
    godot.name(&name, title, 0);
    godot.name(&argument, "obs", 0);
    godot.name(&empty, "", 0);
    godot.string(&none, "");
    memset(&array, 0, sizeof array);
    array.type = GDEXTENSION_VARIANT_TYPE_PACKED_FLOAT32_ARRAY;
    array.name = &argument;
    array.class_name = &empty;
    array.hint_string = &none;
    array.usage = 6; /* PROPERTY_USAGE_DEFAULT */
    answer = array;
    answer.name = &empty;
    memset(&info, 0, sizeof info);
    info.name = &name;
    info.call_func = call;
    info.ptrcall_func = pointers;
    info.method_flags = GDEXTENSION_METHOD_FLAGS_DEFAULT;
    if (!plain) {
        info.has_return_value = 1;
        info.return_value_info = &answer;
        info.argument_count = 1;
        info.arguments_info = &array;
        info.arguments_metadata = &metadata;
    }
    godot.add_method(library, &own, &info);
    godot.end_string(&none);
    godot.end_name(&empty);
    godot.end_name(&argument);
    godot.end_name(&name);
    godot.end_name(&own);
}

static void begin(void *data, GDExtensionInitializationLevel level)
{
    GDExtensionClassCreationInfo2 info;
    (void)data;
    if (level != GDEXTENSION_INITIALIZATION_SCENE)
        return;
    memset(&info, 0, sizeof info);
    info.is_exposed = 1;
    info.create_instance_func = create;
    info.free_instance_func = destroy;
    WITH_NAME(own, "AgentkdExecutor", {
        WITH_NAME(parent, "RefCounted", godot.add_class(library, &own, &parent, &info));
    });
    add_method("act", act_by_variants, act_by_pointers, 0);
    add_method("reset", reset_by_variants, reset_by_pointers, 1);
}

static void end(void *data, GDExtensionInitializationLevel level)
{
    (void)data;
    if (level == GDEXTENSION_INITIALIZATION_SCENE)
        WITH_NAME(own, "AgentkdExecutor", godot.remove_class(library, &own));
}

#define FIND(type, name) (GDExtensionInterface##type)(void (*)(void))get(name)

/* The entry that agentkd.gdextension names. */
SHOWN GDExtensionBool agentkd_init(GDExtensionInterfaceGetProcAddress get,
                                   GDExtensionClassLibraryPtr own, GDExtensionInitialization *how)
{
    const GDExtensionVariantType array = GDEXTENSION_VARIANT_TYPE_PACKED_FLOAT32_ARRAY;
    GDExtensionInterfaceVariantGetPtrBuiltinMethod method =
        FIND(VariantGetPtrBuiltinMethod, "variant_get_ptr_builtin_method");
    GDExtensionInterfaceVariantGetPtrDestructor end_of =
        FIND(VariantGetPtrDestructor, "variant_get_ptr_destructor");
    GDExtensionInterfaceVariantGetPtrConstructor new_of =
        FIND(VariantGetPtrConstructor, "variant_get_ptr_constructor");
    GDExtensionInterfaceGetVariantFromTypeConstructor to =
        FIND(GetVariantFromTypeConstructor, "get_variant_from_type_constructor");
    GDExtensionInterfaceGetVariantToTypeConstructor from =
        FIND(GetVariantToTypeConstructor, "get_variant_to_type_constructor");
    library = own;
    godot.construct = FIND(ClassdbConstructObject, "classdb_construct_object");
    godot.add_class = FIND(ClassdbRegisterExtensionClass2, "classdb_register_extension_class2");
    godot.add_method =
        FIND(ClassdbRegisterExtensionClassMethod, "classdb_register_extension_class_method");
    godot.remove_class =
        FIND(ClassdbUnregisterExtensionClass, "classdb_unregister_extension_class");
    godot.set_instance = FIND(ObjectSetInstance, "object_set_instance");
    godot.at = FIND(PackedFloat32ArrayOperatorIndex, "packed_float32_array_operator_index");
    godot.at_const = FIND(PackedFloat32ArrayOperatorIndexConst,
                          "packed_float32_array_operator_index_const");
    godot.print_error = FIND(PrintError, "print_error");
    godot.name = FIND(StringNameNewWithLatin1Chars, "string_name_new_with_latin1_chars");
    godot.string = FIND(StringNewWithUtf8Chars, "string_new_with_utf8_chars");
    if (!method || !end_of || !new_of || !to || !from || !godot.construct || !godot.add_class ||
        !godot.add_method || !godot.remove_class || !godot.set_instance || !godot.at ||
        !godot.at_const || !godot.print_error || !godot.name || !godot.string)
        return 0;
    godot.end_name = end_of(GDEXTENSION_VARIANT_TYPE_STRING_NAME);
    godot.end_string = end_of(GDEXTENSION_VARIANT_TYPE_STRING);
    godot.end_array = end_of(array);
    godot.new_array = new_of(array, 0);
    godot.to_variant = to(array);
    godot.from_variant = from(array);
    /* The numbers are Godot's hashes of the methods' signatures. */
    WITH_NAME(name, "resize", godot.resize = method(array, &name, 848867239));
    WITH_NAME(name, "size", godot.size = method(array, &name, 3173160232));
    if (!godot.resize || !godot.size)
        return 0;
    how->minimum_initialization_level = GDEXTENSION_INITIALIZATION_SCENE;
    how->initialize = begin;
    how->deinitialize = end;
    return 1;
}
